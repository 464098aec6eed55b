use std::{fs, io};

fn main() -> io::Result<()> {
    let text = fs::read_to_string("in.txt")?;
    fs::write("out.txt", text)
}
