//! The `plimsoll` command. Flags, runtime, exit codes; everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    plimsoll::cli::main()
}
