"""Pictures of anchors, matches and proposals; plots of recall and losses."""
