import ca.uhn.hl7v2.DefaultHapiContext;
import ca.uhn.hl7v2.HapiContext;
import ca.uhn.hl7v2.Severity;
import ca.uhn.hl7v2.model.Message;
import ca.uhn.hl7v2.validation.ValidationException;
import ca.uhn.hl7v2.validation.impl.ValidationContextFactory;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Base64;
import java.util.List;
import org.openehealth.ipf.gazelle.validation.core.CachingGazelleProfileRule;
import org.openehealth.ipf.gazelle.validation.profile.pixpdq.ItiPixPdqProfile;
import org.openehealth.ipf.gazelle.validation.profile.store.GazelleProfileStore;

/** Reads lines of (profile or -, tab, message in Base64); says of each what HAPI and IPF's Gazelle profile find wrong in it. */
public class Hl7Judge {
    public static void main(String[] args) throws Exception {
        HapiContext context = new DefaultHapiContext();
        context.setProfileStore(new GazelleProfileStore());
        context.setValidationContext(ValidationContextFactory.defaultValidation());
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] parts = line.split("\t");
            String text = new String(Base64.getDecoder().decode(parts[1]), StandardCharsets.UTF_8);
            System.out.println(String.join(" ; ", judge(context, parts[0], text)));
        }
    }

    private static List<String> judge(HapiContext context, String profile, String text) {
        List<String> found = new ArrayList<>();
        try {
            Message message = context.getPipeParser().parse(text);
            if (!text.equals(message.encode())) {
                found.add("encoded again: " + message.encode().replace('\r', '\n'));
            }
            if (!profile.equals("-")) {
                for (ValidationException one : new CachingGazelleProfileRule(ItiPixPdqProfile.valueOf(profile)).apply(message)) {
                    if (one.getSeverity() == Severity.ERROR) {
                        found.add(one.getMessage());
                    }
                }
            }
        } catch (Exception error) {
            found.add(error.toString());
        }
        return found;
    }
}
