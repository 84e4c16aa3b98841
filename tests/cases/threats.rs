//! `docs/threat-model.md` names tests that are there, so that it cannot rot.

use std::path::Path;

/// Every source file of ours below a folder, in one text.
fn sources(folder: &Path, text: &mut String) {
    for entry in std::fs::read_dir(folder).expect("a folder of ours") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            sources(&path, text);
        } else if path.extension().is_some_and(|end| end == "rs") {
            text.push_str(&std::fs::read_to_string(&path).expect("a source file"));
        }
    }
}

/// The texts in backticks that can be names of tests, in the last cell of a row.
fn named(row: &str) -> Vec<&str> {
    let last = row.trim_end_matches([' ', '|']).rsplit('|').next().unwrap_or_default();
    let quoted = last.split('`').skip(1).step_by(2);
    quoted.filter(|name| name.contains('_') && !name.contains(['/', '.', ' '])).collect()
}

#[test]
fn every_test_that_the_threat_model_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace");
    let mut text = String::new();
    for part in ["cas", "client", "daemon", "tests"] {
        sources(&root.join(part), &mut text);
    }
    let is_there = |name: &str| text.contains(&format!("fn {name}()"));
    assert!(is_there("every_test_that_the_threat_model_names_is_there"));
    assert!(!is_there(&["a_test", "that_nobody", "wrote"].join("_")));
    let page = include_str!("../../docs/threat-model.md");
    let rows = page.lines().filter(|line| line.starts_with("| "));
    let rows: Vec<&str> = rows.filter(|row| row.matches('|').count() == 5).collect();
    for row in &rows {
        let names = named(row);
        let is_said =
            row.contains("no test") || row.contains("see tests/") || row.contains("| test |");
        assert!(!names.is_empty() || is_said, "no test, and nobody says so: {row}");
        for name in names {
            assert!(is_there(name), "{name} is not there: {row}");
        }
    }
    assert!(rows.len() > 40, "the tables are read");
}
