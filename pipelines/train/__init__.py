"""train: pretrain a student on stores, resumable to the bit."""
