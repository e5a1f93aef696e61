//! What needs root and a tap has `on_tap` in its name.

mod on_tap;
