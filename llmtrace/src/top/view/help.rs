//! What the keys do, and what the numbers mean.

use ratatui::{Frame, layout::Rect, widgets::Paragraph};

const HELP: &str = "\
 1 servers       2 t requests under way     3 e failed, given up, slow     ? help
 enter           open a server: windows, last ten minutes, its requests
 up down j k     move      s > <  sort by the next column     r  turn the order
 /               filter by server, model, client              esc  back, clear
 w               window: 10 s, 60 s, 600 s                     p space  pause
 q               quit

 TTFT    first byte of the request to the event with the first token
 ITL     time between two tokens of a stream
 STALL   time since the last token of a stream that runs
 RUN     requests under way       ERR  failed ones by all that were seen whole
 → name  the view of a traced client of that server
";

pub fn draw(frame: &mut Frame<'_>, area: Rect) {
    frame.render_widget(Paragraph::new(HELP), area);
}
