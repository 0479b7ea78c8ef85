//! The program. All of it is in the library, so that what is not part of the program can reach its parsers: fuzz targets do.

use std::process::ExitCode;

fn main() -> ExitCode {
    berth_backend::main()
}
