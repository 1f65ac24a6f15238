//! The library seen from outside; one program, so that it is linked once.

mod clock;
mod credentials;
mod follow;
mod handshakes;
mod leaf;
mod logs;
mod names;
mod peers;
mod pem;
mod properties;
mod reasons;
mod roots;
mod support;
mod tried;
