//! The command `bond`. Everything that it does is in `client::cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    client::cli::main()
}
