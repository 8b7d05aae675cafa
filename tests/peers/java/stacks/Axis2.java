import java.io.StringReader;
import org.apache.axiom.om.OMXMLBuilderFactory;
import org.apache.axis2.AxisFault;
import org.apache.axis2.addressing.EndpointReference;
import org.apache.axis2.client.Options;
import org.apache.axis2.client.ServiceClient;

/** Sends messages as Axis2 does by itself: Axis2 (URL BODY mtom|plain)... Writes "answer ..." or "fault ..." lines. */
public class Axis2 {
    public static void main(String[] args) throws Exception {
        for (int n = 0; n < args.length; n += 3) {
            send(args[n], args[n + 1], args[n + 2].equals("mtom"));
        }
    }

    private static void send(String url, String body, boolean mtom) throws Exception {
        Options options = new Options();
        options.setTo(new EndpointReference(url));
        options.setSoapVersionURI("http://www.w3.org/2003/05/soap-envelope");
        options.setAction("urn:x");
        if (mtom) {
            options.setProperty("enableMTOM", "true");
        }
        ServiceClient client = new ServiceClient();
        client.setOptions(options);
        try {
            System.out.println("answer " + client.sendReceive(
                OMXMLBuilderFactory.createOMBuilder(new StringReader(body)).getDocumentElement()));
        } catch (AxisFault error) {
            System.out.println("fault " + error.getMessage());
        }
    }
}
