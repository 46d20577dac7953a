"""Integer execution of quantized linears: one kernel a file, chosen by trying it."""
