"""What happened and why: recorder, player, bags."""
