"""Document Registry (XDS.b): registers submissions (ITI-42) and answers stored queries (ITI-18)."""
