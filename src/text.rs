//! Text from outside, made safe to show: in a terminal, on a page, in a label.

use std::borrow::Cow;

/// Characters that are not seen but change what is: control characters, which a terminal obeys; marks that turn the order
/// of a line around; and those without a width, which make two names look like one. None is part of a model's name.
pub(crate) fn unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// The text with a mark in place of each of them, so that one sees that something was there.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if unseen(c) { '\u{fffd}' } else { c }).collect()
}

/// The same for a text that is finished, whose lines and colours stay: whatever went into it, no mark in it turns a line
/// around or hides something. For everything that leaves for people: pages, packets, alerts, logs.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    let hidden = |c: char| unseen(c) && !c.is_control();
    // Nearly every text is plain, and all of the marks are beyond ASCII.
    if text.is_ascii() || !text.contains(hidden) {
        return Cow::Borrowed(text);
    }
    Cow::Owned(text.chars().map(|c| if hidden(c) { '\u{fffd}' } else { c }).collect())
}

#[cfg(test)]
mod tests {
    use super::{clean, visible};

    #[test]
    fn a_finished_text_keeps_its_lines_and_loses_what_turns_them_around() {
        assert_eq!(visible("a\n\u{1b}[1mb\u{202e}c\u{2066}\t"), "a\n\u{1b}[1mb\u{fffd}c\u{fffd}\t");
        assert!(matches!(visible("검색 a\n"), std::borrow::Cow::Borrowed(_)));
    }

    #[test]
    fn what_is_not_seen_is_marked_and_the_rest_stays() {
        let hostile = "a\u{1b}[2J\u{202e}b\u{61c}\u{200b}c\u{2066}\n";
        assert_eq!(clean(hostile), "a\u{fffd}[2J\u{fffd}b\u{fffd}\u{fffd}c\u{fffd}\u{fffd}");
        let plain = "claude-opus-5-5 #검색-팀 Ünïcode";
        assert_eq!(clean(plain), plain);
    }
}
