//! Texts that have so many columns.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::style::{escape, glyphs};

/// The end of `text` behind an ellipsis if it is too wide: names differ in their ends.
pub(crate) fn cut_start(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let kept = text.char_indices().rev();
    let start = within(kept, columns).map_or(text.len(), |(start, _)| start);
    format!("{}{}", glyphs().ellipsis, &text[start..])
}

/// The start of `text` without what a terminal obeys, before an ellipsis if it is too wide.
pub(crate) fn cut_end(text: &str, columns: usize) -> String {
    // Of a text of megabytes only the start is looked at: few characters take no column.
    let far = text.char_indices().nth(2 * columns + 1);
    let near = far.map_or(text, |(end, _)| &text[..end]);
    let safe = escape(near);
    if far.is_none() && safe.width() <= columns {
        return safe.into_owned();
    }
    let end =
        within(safe.char_indices(), columns).map_or(0, |(start, last)| start + last.len_utf8());
    format!("{}{}", &safe[..end], glyphs().ellipsis)
}

/// `text` without its middle, if it has more characters than so many: how it begins and ends says what it is about.
pub(crate) fn cut_middle(text: &str, most: usize) -> String {
    let half = most / 2;
    let mut characters = text.char_indices();
    let start = characters.nth(half);
    match (start, characters.nth_back(half)) {
        (Some((start, _)), Some((end, last))) => {
            let end = end + last.len_utf8();
            format!("{}{}{}", &text[..start], glyphs().ellipsis, &text[end..])
        }
        _ => text.to_owned(),
    }
}

/// `text` in lines of at most so many columns, broken between words, but not behind a number; what is wider has a line of its own.
pub(crate) fn wrap(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut rest = text;
    while !rest.is_empty() {
        let (unit, left) = rest.split_at(unit_bytes(rest));
        rest = left.trim_start_matches(' ');
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(unit),
            Some(line) if line.width() + 1 + unit.width() <= columns => {
                line.push(' ');
                line.push_str(unit);
            }
            _ => lines.push(unit.to_owned()),
        }
    }
    lines
}

/// How long the first word is, with what it counts if it is a number.
fn unit_bytes(text: &str) -> usize {
    let mut start = 0;
    loop {
        let end = text[start..]
            .find(' ')
            .map_or(text.len(), |len| start + len);
        let word = &text[start..end];
        let is_number = word.ends_with(|last: char| last.is_ascii_digit())
            && word.starts_with(|first: char| first.is_ascii_digit() || first == '(');
        if end == text.len() || !is_number {
            return end;
        }
        start = end + 1;
    }
}

/// A bar that fills `part` of so many columns; nothing follows it.
pub(crate) fn bar(part: f64, columns: usize) -> String {
    let fills = glyphs().fills;
    let filled = (part.clamp(0.0, 1.0) * (columns * fills.len()) as f64).round() as usize;
    let whole = fills[fills.len() - 1].repeat(filled / fills.len());
    match filled % fills.len() {
        0 => whole,
        rest => whole + fills[rest - 1],
    }
}

/// The last of `characters` that has room beside an ellipsis in so many columns.
fn within(
    characters: impl Iterator<Item = (usize, char)>,
    columns: usize,
) -> Option<(usize, char)> {
    let mut room = columns.saturating_sub(glyphs().ellipsis.width());
    characters
        .map_while(|(at, character)| {
            room = room.checked_sub(character.width().unwrap_or(0))?;
            Some((at, character))
        })
        .last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_names_keep_their_ends() {
        assert_eq!(cut_start("h.0.attn.bias", 13), "h.0.attn.bias");
        assert_eq!(cut_start("h.0.attn.bias", 10), "…attn.bias");
        assert_eq!(cut_start("重み重み", 5), "…重み");
        assert_eq!(cut_start("ab", 0), "…");
    }

    #[test]
    fn long_messages_lose_their_middle() {
        assert_eq!(cut_middle("a model", 7), "a model");
        assert_eq!(cut_middle("a model of weights", 6), "a m…hts");
        assert_eq!(cut_middle("重み重み重み", 2), "重…み");
        assert_eq!(cut_middle("", 0), "");
    }

    #[test]
    fn lines_break_between_words() {
        assert_eq!(wrap("a load of it", 6), ["a load", "of it"]);
        assert_eq!(wrap("a load of it", 80), ["a load of it"]);
        assert_eq!(wrap("weights of", 3), ["weights", "of"]);
        assert_eq!(wrap("of (12.3 MiB) 4", 8), ["of", "(12.3 MiB)", "4"]);
        assert_eq!(wrap("", 3), [""]);
    }

    #[test]
    fn bars_are_as_long_as_their_part() {
        assert_eq!(bar(0.0, 4), "");
        assert_eq!(bar(0.5, 4), "██");
        assert_eq!(bar(1.0, 4), "████");
        assert_eq!(bar(0.4, 4), "█▋");
        assert_eq!(bar(2.0, 4), "████");
        assert_eq!(bar(f64::NAN, 4), "");
    }

    #[test]
    fn long_texts_keep_their_starts() {
        assert_eq!(cut_end("a model", 7), "a model");
        assert_eq!(cut_end("a model", 6), "a mod…");
        assert_eq!(cut_end("重み重み", 5), "重み…");
        assert_eq!(cut_end("a\u{1b}b", 20), "a\\u{1b}b");
        assert_eq!(
            cut_end(&"\u{301}".repeat(1000), 10).chars().last(),
            Some('…')
        );
        assert_eq!(cut_end("ab", 0), "…");
        assert_eq!(cut_end("", 0), "");
    }
}
