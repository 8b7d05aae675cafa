import ca.uhn.fhir.context.FhirContext;
import ca.uhn.fhir.rest.api.EncodingEnum;
import ca.uhn.fhir.rest.api.MethodOutcome;
import ca.uhn.fhir.rest.client.api.IGenericClient;
import ca.uhn.fhir.rest.server.exceptions.BaseServerResponseException;
import java.util.ArrayList;
import java.util.List;
import org.hl7.fhir.r4.model.Bundle;
import org.hl7.fhir.r4.model.CapabilityStatement;
import org.hl7.fhir.r4.model.Enumerations.AdministrativeGender;
import org.hl7.fhir.r4.model.Identifier;
import org.hl7.fhir.r4.model.OperationOutcome;
import org.hl7.fhir.r4.model.Parameters;
import org.hl7.fhir.r4.model.Patient;
import org.hl7.fhir.r4.model.StringType;

/** A source and a consumer that stand on HAPI. Arguments: base address, json or xml, a prefix of ids. Prints a line for each call. */
public class FhirClient {
    private static final String A = "urn:oid:2.999.2.1";
    private static final String B = "urn:oid:2.999.3.1";

    public static void main(String[] arguments) {
        FhirContext context = FhirContext.forR4();
        context.getRestfulClientFactory().setSocketTimeout(60000);
        IGenericClient client = context.newRestfulGenericClient(arguments[0]);
        client.setEncoding(EncodingEnum.valueOf(arguments[1].toUpperCase()));
        String prefix = arguments[2];

        CapabilityStatement told = client.capabilities().ofType(CapabilityStatement.class).execute();
        say("metadata", told.getFhirVersion().toCode(), told.getRestFirstRep().getResourceFirstRep().getConditionalUpdate());

        for (String id : List.of("1", "1", "2", "3")) {
            MethodOutcome done = put(client, patient(A, prefix + id, "欧阳" + prefix, "静" + id));
            OperationOutcome outcome = (OperationOutcome) done.getOperationOutcome();
            say("put " + id, done.getCreated() != null && done.getCreated(), outcome.getIssueFirstRep().getDiagnostics());
        }
        put(client, patient(B, prefix + "B", "欧阳" + prefix, "静1"));

        Parameters found = client.operation().onType(Patient.class).named("$ihe-pix")
            .withParameter(Parameters.class, "sourceIdentifier", new StringType(A + "|" + prefix + "1"))
            .andParameter("targetSystem", new StringType(B)).useHttpGet().execute();
        say("pix", ((Identifier) found.getParameterFirstRep().getValue()).getValue());

        Bundle page = client.search().forResource(Patient.class).where(Patient.FAMILY.matches().value("欧阳" + prefix)).count(2)
            .returnBundle(Bundle.class).execute();
        int total = page.getTotal();
        List<String> names = new ArrayList<>();
        while (page != null) {
            for (Bundle.BundleEntryComponent entry : page.getEntry()) {
                names.add(((Patient) entry.getResource()).getNameFirstRep().getGivenAsSingleString());
            }
            page = page.getLink(Bundle.LINK_NEXT) == null ? null : client.loadPage().next(page).execute();
        }
        say("search", total, names);

        Bundle one = client.search().forResource(Patient.class)
            .where(Patient.IDENTIFIER.exactly().systemAndIdentifier(A, prefix + "2")).returnBundle(Bundle.class).execute();
        Patient read = client.read().resource(Patient.class).withId(one.getEntryFirstRep().getResource().getIdElement().getIdPart())
            .execute();
        say("read", read.getNameFirstRep().getNameAsSingleString(), read.getBirthDateElement().getValueAsString(), read.getActive());

        Parameters asked = new Parameters();
        asked.addParameter().setName("resource").setResource(patient(A, prefix + "none", "欧阳" + prefix, "静3"));
        Bundle matches = client.operation().onType(Patient.class).named("$match").withParameters(asked)
            .returnResourceType(Bundle.class).execute();
        Bundle.BundleEntryComponent match = matches.getEntryFirstRep();
        say("match", matches.getEntry().size(), ((Patient) match.getResource()).getNameFirstRep().getGivenAsSingleString(),
            match.getSearch().getScore(), match.getSearch().getExtensionFirstRep().getValue().primitiveValue());

        Patient retired = patient(A, prefix + "3", "欧阳" + prefix, "静3");
        retired.setActive(false).addLink().setType(Patient.LinkType.REPLACEDBY).getOther()
            .setIdentifier(new Identifier().setSystem(A).setValue(prefix + "2"));
        say("merge", ((OperationOutcome) put(client, retired).getOperationOutcome()).getIssueFirstRep().getDiagnostics());

        refused("unknown", () -> client.operation().onType(Patient.class).named("$ihe-pix")
            .withParameter(Parameters.class, "sourceIdentifier", new StringType(A + "|" + prefix + "never")).useHttpGet().execute());
        refused("retired", () -> put(client, patient(A, prefix + "3", "x", "y")));
        refused("delete", () -> client.delete().resourceConditionalByType(Patient.class)
            .where(Patient.IDENTIFIER.exactly().systemAndIdentifier(A, prefix + "1")).execute());
        refused("read", () -> client.read().resource(Patient.class).withId("NOBODY").execute());
    }

    private static Patient patient(String system, String value, String family, String given) {
        Patient made = new Patient();
        made.addIdentifier().setSystem(system).setValue(value);
        made.addName().setFamily(family).addGiven(given);
        made.setGender(AdministrativeGender.FEMALE).setActive(true).getBirthDateElement().setValueAsString("1985-06-12");
        return made;
    }

    private static MethodOutcome put(IGenericClient client, Patient made) {
        Identifier key = made.getIdentifierFirstRep();
        return client.update().resource(made).conditional()
            .where(Patient.IDENTIFIER.exactly().systemAndIdentifier(key.getSystem(), key.getValue())).execute();
    }

    private static void refused(String what, Runnable call) {
        try {
            call.run();
            say(what, "not refused");
        } catch (BaseServerResponseException error) {
            OperationOutcome outcome = (OperationOutcome) error.getOperationOutcome();
            say(what, error.getStatusCode(), outcome.getIssueFirstRep().getCode().toCode());
        }
    }

    private static void say(Object... parts) {
        StringBuilder line = new StringBuilder();
        for (Object part : parts) {
            line.append(line.length() == 0 ? "" : " | ").append(part);
        }
        System.out.println(line);
    }
}
