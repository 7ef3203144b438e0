//! What retention rules keep, as one table per tenant.

use comfy_table::{Cell, CellAlignment};

use super::{
    Style, bytes, plain,
    search::{lines, table},
    thousands,
};
use crate::retention::TenantPlan;

pub fn render(plans: &[TenantPlan], style: Style) -> String {
    if plans.is_empty() {
        return "There is no tenant with a table yet.\n".to_owned();
    }
    plans.iter().map(|plan| tenant(plan, style)).collect::<Vec<_>>().join("\n")
}

fn tenant(plan: &TenantPlan, style: Style) -> String {
    let mut table = table(style);
    let heads = ["RULE", "KEEP", "TRACES", "SPANS", "SIZE", "DELETED NOW", "SIZE"];
    table.set_header(heads.map(|head| Cell::new(style.bold(head))));
    for rule in &plan.rules {
        let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row([
            Cell::new(plain(&rule.rule)),
            Cell::new(&rule.keep),
            number(thousands(rule.traces)),
            number(thousands(rule.spans)),
            number(bytes(rule.bytes)),
            number(thousands(rule.deleted_now_traces)),
            number(bytes(rule.deleted_now_bytes)),
        ]);
    }
    format!("{}\n{}", style.bold(&format!("Tenant {}", plain(&plan.tenant))), lines(&table))
}
