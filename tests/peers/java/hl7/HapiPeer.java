import ca.uhn.hl7v2.DefaultHapiContext;
import ca.uhn.hl7v2.HapiContext;
import ca.uhn.hl7v2.app.Connection;
import ca.uhn.hl7v2.app.HL7Service;
import ca.uhn.hl7v2.model.Message;
import ca.uhn.hl7v2.protocol.ReceivingApplication;
import ca.uhn.hl7v2.validation.impl.ValidationContextFactory;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.Map;

/**
 * A hospital system made with HAPI. It listens on the port of its argument, acknowledges what comes and prints `got` and the message
 * in Base64. A line of its input, port, tab, message in Base64, is sent there; it prints `answer` and the answer in Base64.
 */
public class HapiPeer {
    private static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    public static void main(String[] args) throws Exception {
        HapiContext context = new DefaultHapiContext();
        context.setValidationContext(ValidationContextFactory.defaultValidation());
        HL7Service service = context.newServer(Integer.parseInt(args[0]), false);
        service.registerApplication(new Receiver());
        service.startAndWait();
        tell("ready", "");
        BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            String[] parts = line.split("\t");
            String text = new String(Base64.getDecoder().decode(parts[1]), StandardCharsets.UTF_8);
            Connection connection = context.newClient("127.0.0.1", Integer.parseInt(parts[0]), false);
            Message answer = connection.getInitiator().sendAndReceive(context.getPipeParser().parse(text));
            tell("answer", answer.encode());
            connection.close();
        }
        service.stopAndWait();
        context.close();
    }

    private static synchronized void tell(String what, String text) {
        OUT.println(what + "\t" + Base64.getEncoder().encodeToString(text.getBytes(StandardCharsets.UTF_8)));
    }

    private static class Receiver implements ReceivingApplication<Message> {
        @Override
        public Message processMessage(Message message, Map<String, Object> metadata) {
            try {
                tell("got", message.encode());
                return message.generateACK();
            } catch (Exception error) {
                throw new IllegalStateException(error);
            }
        }

        @Override
        public boolean canProcess(Message message) {
            return true;
        }
    }
}
