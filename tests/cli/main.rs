//! The command as its users meet it: options, exit statuses, what is printed where.

mod bench;
mod browser;
mod demo;
mod errors;
mod hub;
mod inspect;
mod json;
mod load;
mod log;
mod manual;
mod measuring;
mod pinning;
mod signals;
mod sources;
mod streams;
mod support;
mod synth;
mod terminal;
mod timeline;
mod usage;
mod verify;
