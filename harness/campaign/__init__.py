"""Campaigns: millions of cases, cut into shards that run anywhere and are lost nowhere."""

from harness.campaign.progress import CampaignProgress
from harness.campaign.runner import CampaignResult, run

__all__ = ["CampaignProgress", "CampaignResult", "run"]
