import jakarta.xml.ws.Dispatch;
import jakarta.xml.ws.Service;
import jakarta.xml.ws.WebServiceFeature;
import jakarta.xml.ws.soap.MTOMFeature;
import jakarta.xml.ws.soap.SOAPBinding;
import java.io.StringReader;
import java.io.StringWriter;
import javax.xml.namespace.QName;
import javax.xml.transform.Source;
import javax.xml.transform.TransformerFactory;
import javax.xml.transform.stream.StreamResult;
import javax.xml.transform.stream.StreamSource;

/** Sends messages as a JAX-WS stack does by itself: JaxWs (URL BODY mtom|plain)... Writes "answer ..." or "fault ..." lines. */
public class JaxWs {
    public static void main(String[] args) throws Exception {
        for (int n = 0; n < args.length; n += 3) {
            send(args[n], args[n + 1], args[n + 2].equals("mtom"));
        }
    }

    private static void send(String url, String body, boolean mtom) throws Exception {
        QName service = new QName("urn:x", "service"), port = new QName("urn:x", "port");
        Service made = Service.create(service);
        made.addPort(port, SOAPBinding.SOAP12HTTP_BINDING, url);
        WebServiceFeature[] features = mtom ? new WebServiceFeature[] {new MTOMFeature()} : new WebServiceFeature[0];
        Dispatch<Source> dispatch = made.createDispatch(port, Source.class, Service.Mode.PAYLOAD, features);
        dispatch.getRequestContext().put("org.apache.cxf.transport.process_fault_on_http_400", true);   // nothing to Metro
        try {
            StringWriter text = new StringWriter();
            TransformerFactory.newInstance().newTransformer().transform(
                dispatch.invoke(new StreamSource(new StringReader(body))), new StreamResult(text));
            System.out.println("answer " + text);
        } catch (RuntimeException error) {
            System.out.println("fault " + error.getMessage());
        }
    }
}
