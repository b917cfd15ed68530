//! Days and microseconds, as PostgreSQL counts them, and the calendar.
//!
//! The calendar is the proleptic Gregorian one, in which the year 0 is 1 BC.

use super::{Date, DateTime, Time};

/// Days from 1970-01-01 to 2000-01-01, where PostgreSQL's count begins.
const EPOCH_DAYS: i64 = 10_957;
const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;

/// The day that is so many after 2000-01-01.
pub(super) fn date_of(days: i32) -> Option<Date> {
    // The ends of the count stand for infinity.
    if days == i32::MAX || days == i32::MIN {
        return None;
    }
    civil_of(i64::from(days) + EPOCH_DAYS)
}

/// How many days after 2000-01-01 it is; nothing, if there is no such day.
pub(super) fn days_of((year, month, day): Date) -> Option<i32> {
    let days = days_of_civil(i64::from(year), i64::from(month), i64::from(day));
    if civil_of(days)? != (year, month, day) {
        return None;
    }
    i32::try_from(days - EPOCH_DAYS).ok()
}

/// The time of a day that is so many microseconds after midnight.
pub(super) fn time_of(micros: i64) -> Option<Time> {
    let part = |unit: i64, of: i64| u8::try_from(micros / unit % of).ok();
    let nanos = u32::try_from(micros % SECOND * 1000).ok()?;
    // There is a 24:00:00.
    let hours = u8::try_from(micros / (3600 * SECOND)).ok()?;
    Some((hours, part(60 * SECOND, 60)?, part(SECOND, 60)?, nanos))
}

/// How many microseconds after midnight it is; nothing, if there is no such time. What is less than a microsecond is cut off.
pub(super) fn micros_of((hour, minute, second, nanos): Time) -> Option<i64> {
    let is_midnight = (hour, minute, second, nanos) == (24, 0, 0, 0);
    if (hour > 23 && !is_midnight) || minute > 59 || second > 59 || nanos > 999_999_999 {
        return None;
    }
    let seconds = i64::from(hour) * 3600 + i64::from(minute) * 60 + i64::from(second);
    Some(seconds * SECOND + i64::from(nanos / 1000))
}

/// The moment that is so many microseconds after 2000-01-01.
pub(super) fn date_time_of(micros: i64) -> Option<DateTime> {
    if micros == i64::MAX || micros == i64::MIN {
        return None;
    }
    let (year, month, day) = civil_of(micros.div_euclid(DAY) + EPOCH_DAYS)?;
    let (hour, minute, second, nanos) = time_of(micros.rem_euclid(DAY))?;
    Some((year, month, day, hour, minute, second, nanos))
}

/// How many microseconds after 2000-01-01 it is; nothing, if there is no such moment.
pub(super) fn moment_of((year, month, day, hour, minute, second, nanos): DateTime) -> Option<i64> {
    let days = i64::from(days_of((year, month, day))?);
    days.checked_mul(DAY)?.checked_add(micros_of((hour, minute, second, nanos))?)
}

/// The same of seconds since 1970.
pub(super) fn moment_of_unix(seconds: i64) -> Option<i64> {
    seconds.checked_sub(EPOCH_DAYS * 86_400)?.checked_mul(SECOND)
}

/// The date of a day since 1970. (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.)
fn civil_of(days: i64) -> Option<Date> {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Some((i32::try_from(year).ok()?, u8::try_from(month).ok()?, u8::try_from(day).ok()?))
}

/// Its inverse (`days_from_civil`), for whatever is near to a date.
fn days_of_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        assert_eq!(date_of(0), Some((2000, 1, 1)));
        assert_eq!(date_of(-10_957), Some((1970, 1, 1)));
        assert_eq!(days_of((2024, 2, 29)), Some(8825));
        assert_eq!((date_of(i32::MAX), date_of(i32::MIN)), (None, None));
        for day in (-2_500_000..2_500_000).step_by(997) {
            assert_eq!(days_of(date_of(day).unwrap()), Some(day));
        }
        for wrong in [(2023, 2, 29), (2023, 0, 1), (2023, 13, 1), (2023, 4, 31), (2023, 4, 0), (i32::MAX, 1, 1)] {
            assert_eq!(days_of(wrong), None, "{wrong:?}");
        }
    }

    #[test]
    fn moments_are_microseconds() {
        assert_eq!(date_time_of(0), Some((2000, 1, 1, 0, 0, 0, 0)));
        assert_eq!(date_time_of(-1), Some((1999, 12, 31, 23, 59, 59, 999_999_000)));
        assert_eq!(moment_of((1999, 12, 31, 23, 59, 59, 999_999_999)), Some(-1));
        assert_eq!(moment_of_unix(946_684_800), Some(0));
        assert_eq!(moment_of_unix(i64::MAX), None);
        assert_eq!(time_of(micros_of((24, 0, 0, 0)).unwrap()), Some((24, 0, 0, 0)));
        for wrong in [(24, 0, 0, 1), (1, 60, 0, 0), (1, 0, 60, 0), (1, 0, 0, 1_000_000_000)] {
            assert_eq!(micros_of(wrong), None, "{wrong:?}");
        }
    }
}
