"""PIX Manager: feeds, links and queries of patient identities."""
