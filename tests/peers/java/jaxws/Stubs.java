import java.net.URI;
import java.net.URL;
import java.security.MessageDigest;
import java.util.HexFormat;
import stubs.imaging.ImagingDocumentSourceService;
import stubs.imaging.RetrieveImagingDocumentSetRequestType;
import stubs.imaging.RetrieveImagingDocumentSetRequestType.StudyRequest;
import stubs.imaging.RetrieveImagingDocumentSetRequestType.StudyRequest.SeriesRequest;
import stubs.pix.*;
import stubs.registry.AdhocQueryRequestType;
import stubs.registry.AdhocQueryResponseType;
import stubs.registry.AdhocQueryType;
import stubs.registry.DocumentRegistryService;
import stubs.registry.ResponseOptionType;
import stubs.registry.ReturnType;
import stubs.registry.SlotType1;
import stubs.registry.ValueListType;
import stubs.repository.DocumentRepositoryService;

/**
 * Calls one operation of each endpoint by stubs that wsimport made from the served WSDL, with no feature switched on by hand:
 * what travels as MTOM is the WSDL's to say. Prints a line for each answer.
 */
public class Stubs {
    static final ObjectFactory HL7 = new ObjectFactory();

    public static void main(String[] a) throws Exception {
        String base = a[0], patient = a[1], repository = a[2], document = a[3];
        feed(base);
        pix(base);
        query(base, patient);
        retrieve(base, repository, document);
        images(base, a[4], a[5], a[6], a[7]);
    }

    static URL wsdl(String base, String path) throws Exception {
        return URI.create(base + path + "?wsdl").toURL();
    }

    static II ii(String root, String extension) {
        II made = new II();
        made.setRoot(root);
        made.setExtension(extension);
        return made;
    }

    static CS cs(String code) {
        CS made = new CS();
        made.setCode(code);
        return made;
    }

    static ST st(String text) {
        ST made = new ST();
        made.setValue(text);
        return made;
    }

    static Communication end(String kind, String oid) {
        Device device = new Device();
        device.setClassCode("DEV");
        device.setDeterminerCode("INSTANCE");
        device.getId().add(ii(oid, null));
        Communication made = new Communication();
        made.setTypeCode(kind);
        made.setDevice(device);
        return made;
    }

    static TS ts(String value) {
        TS made = new TS();
        made.setValue(value);
        return made;
    }

    static CD trigger(String name) {
        CD made = new CD();
        made.setCode(name);
        made.setCodeSystem("2.16.840.1.113883.1.6");
        return made;
    }

    static void feed(String base) throws Exception {
        EnFamily family = new EnFamily();
        family.setValue("欧阳");
        EnGiven given = new EnGiven();
        given.setValue("娜");
        EN name = new EN();
        name.getContent().add(HL7.createENFamily(family));
        name.getContent().add(HL7.createENGiven(given));
        AdxpCity city = new AdxpCity();
        city.setValue("福州");
        AD address = new AD();
        address.getContent().add(HL7.createADCity(city));
        TEL phone = new TEL();
        phone.setValue("tel:+86-591-1");
        CD sex = new CD();
        sex.setCode("F");
        Person person = new Person();
        person.setClassCode("PSN");
        person.setDeterminerCode("INSTANCE");
        person.getName().add(name);
        person.setAdministrativeGenderCode(sex);
        person.setBirthTime(ts("19790214"));
        ContactParty contact = new ContactParty();
        contact.setClassCode("CON");
        contact.setNullFlavor("NI");
        ProviderOrganization organization = new ProviderOrganization();
        organization.setClassCode("ORG");
        organization.setDeterminerCode("INSTANCE");
        organization.getId().add(ii("2.999.3.1", null));
        organization.getContactParty().add(contact);
        Patient patient = new Patient();
        patient.setClassCode("PAT");
        patient.getId().add(ii("2.999.3.1", "JAX-1"));
        patient.getAddr().add(address);
        patient.getTelecom().add(phone);
        patient.setStatusCode(cs("active"));
        patient.setPatientPerson(person);
        patient.setProviderOrganization(organization);
        Subject1 subject1 = new Subject1();
        subject1.setTypeCode("SBJ");
        subject1.setPatient(patient);
        AssignedEntity assigned = new AssignedEntity();
        assigned.setClassCode("ASSIGNED");
        assigned.getId().add(ii("2.999.3.1", null));
        Custodian custodian = new Custodian();
        custodian.setTypeCode("CST");
        custodian.setAssignedEntity(assigned);
        RegistrationEvent event = new RegistrationEvent();
        event.setClassCode("REG");
        event.setMoodCode("EVN");
        event.setStatusCode(cs("active"));
        event.setSubject1(subject1);
        event.setCustodian(custodian);
        Subject subject = new Subject();
        subject.setTypeCode("SUBJ");
        subject.setRegistrationEvent(event);
        FeedAct act = new FeedAct();
        act.setClassCode("CACT");
        act.setMoodCode("EVN");
        act.setCode(trigger("PRPA_TE201301UV02"));
        act.setSubject(subject);
        Feed message = new Feed();
        message.setId(ii("2.999.3.9", "jax-1"));
        message.setCreationTime(ts("20261126101500"));
        message.setInteractionId(ii("2.16.840.1.113883.1.6", "PRPA_IN201301UV02"));
        message.setProcessingCode(cs("P"));
        message.setProcessingModeCode(cs("T"));
        message.setAcceptAckCode(cs("AL"));
        message.setReceiver(end("RCV", "2.999.1.4"));
        message.setSender(end("SND", "2.999.3.9"));
        message.setControlActProcess(act);
        AcceptAck answer = new PIXManagerService(wsdl(base, "/pix")).getPIXManagerPortSoap12().pixManagerPRPAIN201301UV02(message);
        System.out.println("feed " + answer.getAcknowledgement().getTypeCode().getCode());
    }

    static void pix(String base) throws Exception {
        PatientIdentifier patient = new PatientIdentifier();
        patient.getValue().add(ii("2.999.3.1", "JAX-1"));
        patient.setSemanticsText(st("Patient.id"));
        Parameter source = new Parameter();
        source.setValue(ii("2.999.1.1", null));
        source.setSemanticsText(st("DataSource.id"));
        ParameterList list = new ParameterList();
        list.getDataSource().add(source);
        list.getPatientIdentifier().add(patient);
        QueryByParameter parameters = new QueryByParameter();
        parameters.setQueryId(ii("2.999.5.9", "jax-2"));
        parameters.setStatusCode(cs("new"));
        parameters.setResponsePriorityCode(cs("I"));
        parameters.setParameterList(list);
        QueryAct act = new QueryAct();
        act.setClassCode("CACT");
        act.setMoodCode("EVN");
        act.setCode(trigger("PRPA_TE201309UV02"));
        act.setQueryByParameter(parameters);
        Query message = new Query();
        message.setId(ii("2.999.5.9", "jax-2"));
        message.setCreationTime(ts("20261126101500"));
        message.setInteractionId(ii("2.16.840.1.113883.1.6", "PRPA_IN201309UV02"));
        message.setProcessingCode(cs("P"));
        message.setProcessingModeCode(cs("T"));
        message.setAcceptAckCode(cs("AL"));
        message.setReceiver(end("RCV", "2.999.1.4"));
        message.setSender(end("SND", "2.999.5.9"));
        message.setControlActProcess(act);
        Answer answer = new PIXManagerService(wsdl(base, "/pix")).getPIXManagerPortSoap12().pixManagerPRPAIN201309UV02(message);
        II found = answer.getControlActProcess().getSubject().get(0).getRegistrationEvent().getSubject1().getPatient().getId().get(0);
        String asked = answer.getControlActProcess().getQueryByParameter().getParameterList().getPatientIdentifier().get(0)
            .getSemanticsText().getValue();
        System.out.println("pix " + answer.getAcknowledgement().getTypeCode().getCode() + " " + found.getRoot() + " "
            + found.getAssigningAuthorityName() + " " + asked);
    }

    static SlotType1 slot(String name, String value) {
        SlotType1 made = new SlotType1();
        made.setName(name);
        made.setValueList(new ValueListType());
        made.getValueList().getValue().add(value);
        return made;
    }

    static void query(String base, String patient) throws Exception {
        AdhocQueryType stored = new AdhocQueryType();
        stored.setId("urn:uuid:14d4debf-8f97-4251-9a74-a90016b0af0d");
        stored.getSlot().add(slot("$XDSDocumentEntryPatientId", "'" + patient + "'"));
        stored.getSlot().add(slot(
            "$XDSDocumentEntryStatus", "('urn:oasis:names:tc:ebxml-regrep:StatusType:Approved')"));
        ResponseOptionType option = new ResponseOptionType();
        option.setReturnComposedObjects(true);
        option.setReturnType(ReturnType.LEAF_CLASS);
        AdhocQueryRequestType request = new AdhocQueryRequestType();
        request.setResponseOption(option);
        request.setAdhocQuery(stored);
        AdhocQueryResponseType answer = new DocumentRegistryService(wsdl(base, "/xds/registry"))
            .getDocumentRegistryPortSoap12().documentRegistryRegistryStoredQuery(request);
        System.out.println("query " + status(answer.getStatus()) + " " + answer.getRegistryObjectList().getIdentifiable().size());
    }

    static stubs.repository.DocumentRequestType ask(String repository, String document) {
        stubs.repository.DocumentRequestType made = new stubs.repository.DocumentRequestType();
        made.setRepositoryUniqueId(repository);
        made.setDocumentUniqueId(document);
        return made;
    }

    static void retrieve(String base, String repository, String document) throws Exception {
        stubs.repository.RetrieveDocumentSetRequestType request = new stubs.repository.RetrieveDocumentSetRequestType();
        request.getDocumentRequest().add(ask(repository, document));
        stubs.repository.RetrieveDocumentSetResponseType answer = new DocumentRepositoryService(wsdl(base, "/xds/repository"))
            .getDocumentRepositoryPortSoap12().documentRepositoryRetrieveDocumentSet(request);
        System.out.println("retrieve " + status(answer.getRegistryResponse().getStatus()) + " "
            + sha256(answer.getDocumentResponse().get(0).getDocument()));
    }

    static void images(String base, String source, String study, String series, String instance) throws Exception {
        stubs.imaging.DocumentRequestType wanted = new stubs.imaging.DocumentRequestType();
        wanted.setRepositoryUniqueId(source);
        wanted.setDocumentUniqueId(instance);
        SeriesRequest seriesRequest = new SeriesRequest();
        seriesRequest.setSeriesInstanceUID(series);
        seriesRequest.getDocumentRequest().add(wanted);
        StudyRequest studyRequest = new StudyRequest();
        studyRequest.setStudyInstanceUID(study);
        studyRequest.getSeriesRequest().add(seriesRequest);
        RetrieveImagingDocumentSetRequestType request = new RetrieveImagingDocumentSetRequestType();
        request.getStudyRequest().add(studyRequest);
        RetrieveImagingDocumentSetRequestType.TransferSyntaxUIDList syntaxes =
            new RetrieveImagingDocumentSetRequestType.TransferSyntaxUIDList();
        syntaxes.getTransferSyntaxUID().add("1.2.840.10008.1.2.1");
        request.setTransferSyntaxUIDList(syntaxes);
        stubs.imaging.RetrieveDocumentSetResponseType answer = new ImagingDocumentSourceService(wsdl(base, "/xds/imaging"))
            .getImagingDocumentSourcePortSoap12().imagingDocumentSourceRetrieveImagingDocumentSet(request);
        System.out.println("images " + status(answer.getRegistryResponse().getStatus()) + " "
            + sha256(answer.getDocumentResponse().get(0).getDocument()));
    }

    static String status(String urn) {
        return urn.substring(urn.lastIndexOf(':') + 1);
    }

    static String sha256(byte[] data) throws Exception {
        return HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(data));
    }
}
