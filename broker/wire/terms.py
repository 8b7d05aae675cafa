"""Standard terms a manifest's DocumentEntry uses, checked against pydicom's copy of PS3.16 in the tests."""

from collections.abc import Mapping

# Patient's Sex (PS3.3 C.7.1.1) and what is written for it: words, and the numbers of ISO/IEC 5218 and GB/T 2261.1.
SEXES: Mapping[str, str] = {
    **dict.fromkeys(("M", "MALE", "MAN", "BOY", "男", "男性", "1"), "M"),
    **dict.fromkeys(("F", "FEMALE", "WOMAN", "GIRL", "女", "女性", "2"), "F"),
    **dict.fromkeys(("O", "OTHER", "其他", "其它"), "O"),
}

# PS3.16 CID 29: acquisition modalities, so neither KO, SR and PR nor segmentations, plans and registrations.
MODALITIES: Mapping[str, str] = {
    "AR": "Autorefraction", "BDUS": "Ultrasound Bone Densitometry", "BI": "Biomagnetic Imaging",
    "BMD": "Bone Mineral Densitometry", "CFM": "Confocal Microscopy", "CR": "Computed Radiography",
    "CT": "Computed Tomography", "DG": "Diaphanography", "DMS": "Dermoscopy", "DX": "Digital Radiography",
    "ECG": "Electrocardiography", "EEG": "Electroencephalography", "EMG": "Electromyography", "EOG": "Electrooculography",
    "EPS": "Cardiac Electrophysiology", "ES": "Endoscopy", "GM": "General Microscopy", "HD": "Hemodynamic Waveform",
    "IO": "Intra-oral Radiography", "IVOCT": "Intravascular Optical Coherence Tomography",
    "IVUS": "Intravascular Ultrasound", "KER": "Keratometry", "LEN": "Lensometry", "LS": "Laser Scan",
    "MG": "Mammography", "MR": "Magnetic Resonance", "NM": "Nuclear Medicine", "OAM": "Ophthalmic Axial Measurements",
    "OCT": "Optical Coherence Tomography", "OP": "Ophthalmic Photography", "OPM": "Ophthalmic Mapping",
    "OPT": "Ophthalmic Tomography", "OPTBSV": "Ophthalmic Tomography B-scan Volume Analysis",
    "OPTENF": "Ophthalmic Tomography En Face", "OPV": "Ophthalmic Visual Field", "OSS": "Optical Surface Scanner",
    "PA": "Photoacoustic", "POS": "Position Sensor", "PT": "Positron emission tomography", "PX": "Panoramic X-Ray",
    "RESP": "Respiratory Waveform", "RF": "Radiofluoroscopy", "RG": "Radiographic imaging", "RTIMAGE": "RT Image",
    "SM": "Slide Microscopy", "SRF": "Subjective Refraction", "TG": "Thermography", "US": "Ultrasound",
    "VA": "Visual Acuity", "XA": "X-Ray Angiography", "XC": "External-camera Photography",
}

# PS3.16 annex L, the common rows: Body Part Examined -> (SNOMED code, meaning) of CID 4.
BODY_PARTS: Mapping[str, tuple[str, str]] = {
    "ABDOMEN": ("818981001", "Abdomen"), "ABDOMENPELVIS": ("818982008", "Abdomen and Pelvis"),
    "ANKLE": ("70258002", "Ankle joint"), "BLADDER": ("89837001", "Bladder"), "BRAIN": ("12738006", "Brain"),
    "BREAST": ("76752008", "Breast"), "CHEST": ("816094009", "Thorax"), "CHESTABDOMEN": ("416550000", "Chest and Abdomen"),
    "CHESTABDPELVIS": ("416775004", "Chest, Abdomen and Pelvis"), "CSPINE": ("122494005", "Cervical spine"),
    "ELBOW": ("16953009", "Elbow joint"), "EXTREMITY": ("66019005", "Extremity"), "FACE": ("89545001", "Face"),
    "FINGER": ("7569003", "Finger"), "FOOT": ("56459004", "Foot"), "FOREARM": ("14975008", "Forearm"),
    "HAND": ("85562004", "Hand"), "HEAD": ("69536005", "Head"), "HIP": ("29836001", "Hip"), "KNEE": ("72696002", "Knee"),
    "LIVER": ("10200004", "Liver"), "LSPINE": ("122496007", "Lumbar spine"), "LUNG": ("39607008", "Lung"),
    "NECK": ("45048000", "Neck"), "PANCREAS": ("15776009", "Pancreas"), "PELVIS": ("816092008", "Pelvis"),
    "PROSTATE": ("41216001", "Prostate"), "SHOULDER": ("16982005", "Shoulder"), "SKULL": ("89546000", "Skull"),
    "SPINE": ("421060004", "Spine"), "THIGH": ("68367000", "Thigh"), "THORAX": ("816094009", "Thorax"),
    "THYROID": ("69748006", "Thyroid"), "TSPINE": ("122495006", "Thoracic spine"), "UTERUS": ("35039007", "Uterus"),
    "WHOLEBODY": ("38266002", "Entire body"), "WRIST": ("74670003", "Wrist joint"),
}
