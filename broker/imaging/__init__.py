"""Imaging Document Source: receive, publish, locate, fetch, pack and retrieve studies."""
