//! The `vadpipe` program: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    vadpipe::cli::main()
}
