"""What every torch family shares: the plan of batches, the loop, schedules, augmentation and checkpoints."""
