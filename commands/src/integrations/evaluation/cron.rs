//! Cron expressions of five fields, in UTC: minute, hour, day of the month, month, day of the week.

use time::{Date, Duration, OffsetDateTime, Time};

/// How far is looked: a 29th of February that is a Monday comes within this time.
const FAR: i64 = 366 * 29;

/// An expression: of each field the values that it has, as bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cron {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Both days are named: one of them is enough.
    either: bool,
}

impl Cron {
    /// Reads one; none: it is none. Fields are `*`, numbers, ranges (`1-5`) and steps (`*/15`), with commas between.
    pub fn read(text: &str) -> Option<Self> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        let &[minutes, hours, days, months, weekdays] = fields.as_slice() else { return None };
        let sundays = field(weekdays, 0, 7)?;
        Some(Cron {
            minutes: field(minutes, 0, 59)?,
            hours: field(hours, 0, 23)?,
            days: field(days, 1, 31)?,
            months: field(months, 1, 12)?,
            weekdays: (sundays | (sundays >> 7)) & 0x7f,
            either: !days.starts_with('*') && !weekdays.starts_with('*'),
        })
    }

    /// The first time after another; none: there is no such day.
    pub fn next(&self, after: OffsetDateTime) -> Option<OffsetDateTime> {
        let after = after.to_offset(time::UtcOffset::UTC) + Duration::minutes(1);
        let (today, hour, minute) = (after.date(), after.hour(), after.minute());
        let (hours, minutes) = (self.hours, self.minutes);
        let on = |date: Date, from: (u8, u8)| {
            let on_hour = |hour: u8| {
                let first = if hour == from.0 { from.1 } else { 0 };
                (first..60).find(|minute| has(minutes, *minute)).map(|minute| (hour, minute))
            };
            let (hour, minute) = (from.0..24).filter(|hour| has(hours, *hour)).find_map(on_hour)?;
            Some(date.with_time(Time::from_hms(hour, minute, 0).ok()?).assume_utc())
        };
        let days = (0..FAR).filter_map(|days| today.checked_add(Duration::days(days)));
        let mut fitting = days.filter(|date| self.fits(*date));
        fitting.find_map(|date| on(date, if date == today { (hour, minute) } else { (0, 0) }))
    }

    fn fits(&self, date: Date) -> bool {
        let day = has(self.days, date.day());
        let weekday = has(self.weekdays, date.weekday().number_days_from_sunday());
        let days = if self.either { day || weekday } else { day && weekday };
        has(self.months, date.month() as u8) && days
    }
}

fn has(bits: u64, value: u8) -> bool {
    (bits >> value) & 1 == 1
}

fn field(text: &str, least: u8, most: u8) -> Option<u64> {
    let within = |number: &str| number.parse::<u8>().ok().filter(|number| (least..=most).contains(number));
    text.split(',').try_fold(0, |bits, part| {
        let (range, step) = part.split_once('/').map_or((part, None), |(range, step)| (range, Some(step)));
        let step: u8 = step.map_or(Some(1), |step| step.parse().ok().filter(|step| *step > 0))?;
        let (from, to) = match (range, range.split_once('-')) {
            ("*", _) => (least, most),
            (_, Some((from, to))) => (within(from)?, within(to)?),
            // `5/15` goes on to the end, `5` is itself.
            _ => (within(range)?, if part.contains('/') { most } else { within(range)? }),
        };
        (from <= to).then(|| (from..=to).step_by(step.into()).fold(bits, |bits, value| bits | (1 << value)))
    })
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn the_next_time_is_found() {
        for (cron, after, next) in [
            ("*/15 * * * *", datetime!(2026-01-01 10:14:59 UTC), Some(datetime!(2026-01-01 10:15 UTC))),
            ("*/15 * * * *", datetime!(2026-01-01 10:15 UTC), Some(datetime!(2026-01-01 10:30 UTC))),
            ("0 3 * * *", datetime!(2026-01-01 03:00 UTC), Some(datetime!(2026-01-02 03:00 UTC))),
            ("30 22 * * 1-5", datetime!(2026-01-02 23:00 UTC), Some(datetime!(2026-01-05 22:30 UTC))),
            ("0 0 1 */3 *", datetime!(2026-01-01 00:00 UTC), Some(datetime!(2026-04-01 00:00 UTC))),
            ("0 0 13 * 5", datetime!(2026-01-01 00:00 UTC), Some(datetime!(2026-01-02 00:00 UTC))),
            ("0 0 * * 7", datetime!(2026-01-01 00:00 UTC), Some(datetime!(2026-01-04 00:00 UTC))),
            ("5/20,59 12 * * *", datetime!(2026-01-01 12:45 UTC), Some(datetime!(2026-01-01 12:59 UTC))),
            ("0 0 29 2 *", datetime!(2026-01-01 00:00 UTC), Some(datetime!(2028-02-29 00:00 UTC))),
            ("0 0 31 2 *", datetime!(2026-01-01 00:00 UTC), None),
        ] {
            assert_eq!(Cron::read(cron).unwrap().next(after), next, "{cron} after {after}");
        }
    }

    #[test]
    fn what_is_no_expression_is_none() {
        for wrong in [
            "",
            "* * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "* * * 13 *",
            "* * * * 8",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "@hourly",
            "* * * * * *",
        ] {
            assert_eq!(Cron::read(wrong), None, "{wrong}");
        }
    }
}
