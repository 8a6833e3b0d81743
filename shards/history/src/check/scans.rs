//! Scans: rows in order and in range, no key twice. That no key is missed is judged with the registers: a scan reads every
//! key of its range.

use super::registers::covered;
use super::report::{Report, Rule, Violation};
use crate::history::History;
use crate::operation::{Answer, Call, Operation, Row};
use crate::show::short;

pub(super) fn check(history: &History, report: &mut Report) {
    for operation in history.operations() {
        let (Call::Scan { reverse, .. }, Some(Answer::Scan { rows, .. })) =
            (&operation.call, operation.answer())
        else {
            continue;
        };
        report.judged.scans += 1;
        let wrong = out_of_range(operation, rows).or_else(|| out_of_order(*reverse, rows));
        if let Some((row, explanation)) = wrong {
            report.violation(Violation {
                rule: Rule::Scan,
                keys: vec![row.key.clone()],
                explanation: format!("{} {explanation}", operation.id),
                window: vec![operation.id],
            });
        }
    }
}

fn out_of_range<'a>(operation: &Operation, rows: &'a [Row]) -> Option<(&'a Row, String)> {
    let (
        Call::Scan {
            start,
            end,
            reverse,
            ..
        },
        Some(Answer::Scan { next, .. }),
    ) = (&operation.call, operation.answer())
    else {
        return None;
    };
    let (start, end) = covered(start, end, *reverse, next.as_ref());
    let row = rows
        .iter()
        .find(|row| row.key < *start || end.is_some_and(|end| row.key >= *end))?;
    let explanation = format!(
        "gave the key {}, outside the range that it covered: [{}, {})",
        short(&row.key),
        short(start),
        end.map_or_else(|| "end".to_owned(), |end| short(end))
    );
    Some((row, explanation))
}

fn out_of_order(reverse: bool, rows: &[Row]) -> Option<(&Row, String)> {
    let in_order = |pair: &[Row]| {
        if reverse {
            pair[0].key > pair[1].key
        } else {
            pair[0].key < pair[1].key
        }
    };
    let pair = rows.windows(2).find(|pair| !in_order(pair))?;
    let row = &pair[1];
    let explanation = if rows.iter().filter(|other| other.key == row.key).count() > 1 {
        format!("gave the key {} twice", short(&row.key))
    } else {
        format!(
            "gave the key {} after {}",
            short(&row.key),
            short(&pair[0].key)
        )
    };
    Some((row, explanation))
}
