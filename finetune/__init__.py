"""A compact trainer for supervised fine-tuning: a dataset and a model in, a fine-tuned model out.

The way of a row: ``data`` reads it, ``render`` makes tokens and a mask of it, ``corpus`` holds them, ``pack`` plans the
epochs, ``batch`` builds tensors, ``trainee`` computes the loss, ``loop`` trains, ``checkpoint`` saves. ``session`` is
one training run from end to end.
"""
