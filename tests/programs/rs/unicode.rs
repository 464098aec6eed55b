fn main() {
    println!("žluťoučký 雪 🎉");
}
