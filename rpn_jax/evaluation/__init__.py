"""How good proposals are: recall at IoU thresholds, average recall, COCO's figures."""
