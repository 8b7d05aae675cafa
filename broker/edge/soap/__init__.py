"""SOAP 1.2 on spyne and lxml; see docs/decisions."""
