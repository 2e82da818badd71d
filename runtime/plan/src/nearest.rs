//! The known name that is nearest to an unknown one, for messages.

/// Formats ` (did you mean "NAME"?)`; empty when no known name is near.
pub fn hint<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    match nearest(name, known) {
        Some(near) => format!(" (did you mean {near:?}?)"),
        None => String::new(),
    }
}

/// The known name with the smallest edit distance; `None` when a third of the letters would change.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    /// Longer names are not typing errors, and comparing them takes time.
    const MAX_LEN: usize = 64;
    if name.len() > MAX_LEN {
        return None;
    }
    let near =
        |candidate: &&str| candidate.len() <= MAX_LEN && candidate.len().abs_diff(name.len()) <= name.len() / 3 + 1;
    let distances = known.into_iter().filter(near).map(|candidate| (distance(name, candidate), candidate));
    let (changed, candidate) = distances.min_by_key(|(changed, _)| *changed)?;
    (changed * 3 <= name.chars().count().max(3)).then_some(candidate)
}

/// The Levenshtein distance, ignoring case.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().flat_map(char::to_lowercase).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().flat_map(char::to_lowercase).enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for column in 0..right.len() {
            let replaced = diagonal + usize::from(letter != right[column]);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelled_name_is_near_and_another_name_is_not() {
        let known = ["namespaces", "resources", "maskedPaths", "readonlyPaths", "args", "cwd"];
        for (name, meant) in [("namespace", "namespaces"), ("maskedpaths", "maskedPaths"), ("arg", "args")] {
            assert_eq!(nearest(name, known), Some(meant), "{name}");
        }
        for name in ["x", "", "seccomp", &"a".repeat(10_000)] {
            assert_eq!(nearest(name, known), None, "{name}");
        }
        assert_eq!(hint("resource", known), " (did you mean \"resources\"?)");
    }
}
