//! The library seen from outside; one program, so that it is linked once.

mod leaf;
mod names;
mod peers;
mod pem;
mod properties;
mod roots;
mod support;
