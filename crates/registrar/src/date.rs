//! The value of a Date header field from a wall-clock time.
//!
//! Source: RFC 3261 §20.17 (always GMT, RFC 1123 form). Pure: the time is an argument.

use state::UnixMillis;

const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// For example `Sat, 13 Nov 2010 23:29:00 GMT`. Put together by hand: every 200 to a REGISTER has one, and `format!` took
/// more than a hundredth of all that a container does for it.
pub(crate) fn sip_date(at: UnixMillis) -> Vec<u8> {
    let seconds = at.0 / 1000;
    let (days, second_of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut date = Vec::with_capacity("Sat, 13 Nov 2010 23:29:00 GMT".len());
    // 1970-01-01 was a Thursday.
    date.extend_from_slice(WEEKDAYS[(days % 7) as usize].as_bytes());
    date.extend_from_slice(b", ");
    date.extend(two_digits(day));
    date.push(b' ');
    date.extend_from_slice(MONTHS[(month - 1) as usize].as_bytes());
    date.push(b' ');
    date.extend(two_digits(year / 100));
    date.extend(two_digits(year));
    for (before, part) in
        [(b' ', second_of_day / 3600), (b':', second_of_day / 60 % 60), (b':', second_of_day % 60)]
    {
        date.push(before);
        date.extend(two_digits(part));
    }
    date.extend_from_slice(b" GMT");
    date
}

/// The last two decimal digits.
fn two_digits(number: u64) -> [u8; 2] {
    [b'0' + (number / 10 % 10) as u8, b'0' + (number % 10) as u8]
}

/// Year, month and day of a number of days since 1970-01-01 (H. Hinnant, "chrono-compatible low-level date
/// algorithms"): years begin in March, so that the leap day is a year's last.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // since 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_289_690_940, "Sat, 13 Nov 2010 23:29:00 GMT"),
            (4_107_542_399, "Sun, 28 Feb 2100 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
        ] {
            assert_eq!(sip_date(UnixMillis(seconds * 1000)), expected.as_bytes());
        }
    }
}
