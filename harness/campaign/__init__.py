"""Campaigns: millions of cases, cut into shards that run anywhere and are lost nowhere."""
