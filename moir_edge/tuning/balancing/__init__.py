"""Balance methods: what keeps one modality from taking the training over; each acts in training steps alone (torch)."""
