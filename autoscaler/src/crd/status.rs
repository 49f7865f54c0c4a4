//! What is told of a scaler: its status and its conditions, from what was seen and decided. Pure.
