// What this image offers, used once: prints `ok`.
use itertools::Itertools;
use rand::Rng;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

#[derive(Serialize, Deserialize)]
struct Point {
    x: i32,
}

fn main() -> anyhow::Result<()> {
    let point: Point = serde_json::from_str(r#"{"x": 1}"#)?;
    assert_eq!(point.x, 1);
    assert!(regex::Regex::new("^a.$")?.is_match("ab"));
    assert_eq!((1..=4).combinations(2).count(), 6);
    assert_eq!((1..=100).into_par_iter().sum::<i32>(), 5050);
    assert!(rand::thread_rng().gen_range(0..10) < 10);
    assert_eq!(hex::encode(Sha256::digest(b""))[..4], *"e3b0");
    assert_eq!(nalgebra::Matrix2::<f64>::new(2.0, 1.0, 1.0, 3.0).determinant(), 5.0);
    assert_eq!(chrono::NaiveDate::from_ymd_opt(2026, 2, 28).unwrap().succ_opt().unwrap().to_string(), "2026-03-01");
    assert_eq!(num::BigInt::from(2).pow(100).to_string(), "1267650600228229401496703205376");
    println!("ok");
    Ok(())
}
