//! The program from outside: arguments and files in, text, files and exit status out.

mod bench;
mod common;
mod errors;
mod help;
mod infer;
mod mnist;
mod own;
mod pages;
mod reproduce;
mod train;
