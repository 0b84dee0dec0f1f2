// The few kinds of panel that both dashboards are made of, with one look.

import type { Builder, Dataquery } from "@grafana/grafana-foundation-sdk/cog";
import * as common from "@grafana/grafana-foundation-sdk/common";
import * as dashboard from "@grafana/grafana-foundation-sdk/dashboard";
import * as heatmap from "@grafana/grafana-foundation-sdk/heatmap";
import * as prometheus from "@grafana/grafana-foundation-sdk/prometheus";
import * as stat from "@grafana/grafana-foundation-sdk/stat";
import * as table from "@grafana/grafana-foundation-sdk/table";
import * as timeseries from "@grafana/grafana-foundation-sdk/timeseries";

export const DATASOURCE = { type: "prometheus", uid: "${datasource}" };
/** Grafana's grid. */
export const WIDTH = 24;
const HEIGHT = 8;

/** What a panel is about: the description is what an SRE reads at three in the morning. */
export interface About {
  title: string;
  description: string;
  unit: string;
  /** Columns of 24. */
  width: number;
  height?: number;
  decimals?: number;
  noValue?: string;
}

export type Query = Builder<Dataquery>;

export function range(expr: string, legend: string): prometheus.DataqueryBuilder {
  return new prometheus.DataqueryBuilder().expr(expr).legendFormat(legend).range();
}

/** `[value from which on, colour]`; the first value is ignored, as there is nothing below it. */
export type Steps = [number, string][];

function thresholds(steps: Steps): dashboard.ThresholdsConfigBuilder {
  return new dashboard.ThresholdsConfigBuilder()
    .mode(dashboard.ThresholdsMode.Absolute)
    .steps(steps.map(([value, color], n) => ({ value: n === 0 ? null : value, color })));
}

export const NEUTRAL: Steps = [[0, "blue"]];

export function number(about: About, query: Query, steps: Steps): stat.PanelBuilder {
  const panel = new stat.PanelBuilder()
    .title(about.title)
    .description(about.description)
    .datasource(DATASOURCE)
    .unit(about.unit)
    .span(about.width)
    .height(about.height ?? 4)
    .noValue(about.noValue ?? "no data")
    .withTarget(query)
    .thresholds(thresholds(steps))
    .colorMode(common.BigValueColorMode.Value)
    .graphMode(common.BigValueGraphMode.Area)
    .reduceOptions(new common.ReduceDataOptionsBuilder().calcs(["lastNotNull"]));
  return about.decimals === undefined ? panel : panel.decimals(about.decimals);
}

export function lines(about: About, queries: Query[]): timeseries.PanelBuilder {
  const panel = new timeseries.PanelBuilder()
    .title(about.title)
    .description(about.description)
    .datasource(DATASOURCE)
    .unit(about.unit)
    .span(about.width)
    .height(about.height ?? HEIGHT)
    .min(0)
    .noValue(about.noValue ?? "no data")
    .lineWidth(1)
    .fillOpacity(0)
    .showPoints(common.VisibilityMode.Never)
    .colorScheme(
      new dashboard.FieldColorBuilder().mode(dashboard.FieldColorModeId.PaletteClassicByName),
    )
    .legend(
      new common.VizLegendOptionsBuilder()
        .displayMode(common.LegendDisplayMode.List)
        .placement(common.LegendPlacement.Bottom)
        .showLegend(true),
    )
    .tooltip(
      new common.VizTooltipOptionsBuilder()
        .mode(common.TooltipDisplayMode.Multi)
        .sort(common.SortOrder.Descending),
    );
  for (const query of queries) panel.withTarget(query);
  return about.decimals === undefined ? panel : panel.decimals(about.decimals);
}

/** What adds up to a whole. */
export function stack(about: About, queries: Query[]): timeseries.PanelBuilder {
  return lines(about, queries)
    .fillOpacity(40)
    .lineWidth(0)
    .stacking(new common.StackingConfigBuilder().mode(common.StackingMode.Normal));
}

/** Dashed lines where it becomes bad. */
export function limits(panel: timeseries.PanelBuilder, steps: Steps): timeseries.PanelBuilder {
  return panel
    .thresholds(thresholds(steps))
    .thresholdsStyle(
      new common.GraphThresholdsStyleConfigBuilder().mode(common.GraphThresholdsStyleMode.Dashed),
    );
}

/** Colours that mean the same in every panel. */
export function colours(
  panel: timeseries.PanelBuilder,
  named: Record<string, string>,
): timeseries.PanelBuilder {
  for (const [name, fixedColor] of Object.entries(named)) {
    panel.overrideByName(name, [{ id: "color", value: { mode: "fixed", fixedColor } }]);
  }
  return panel;
}

/** The distribution of a histogram over time, one row for each of its own buckets. */
export function heat(about: About, expr: string): heatmap.PanelBuilder {
  return new heatmap.PanelBuilder()
    .title(about.title)
    .description(about.description)
    .datasource(DATASOURCE)
    .span(about.width)
    .height(about.height ?? HEIGHT)
    .noValue(about.noValue ?? "no data")
    .withTarget(range(expr, "{{le}}").format(prometheus.PromQueryFormat.Heatmap))
    .calculate(false)
    .cellGap(1)
    .filterValues(new heatmap.FilterValueRangeBuilder().le(1e-9))
    .yAxis(new heatmap.YAxisConfigBuilder().unit(about.unit))
    .cellValues(new heatmap.CellValuesBuilder().unit("short").decimals(1))
    .color(
      new heatmap.HeatmapColorOptionsBuilder()
        .mode(heatmap.HeatmapColorMode.Scheme)
        .scheme("Oranges")
        .scale(heatmap.HeatmapColorScale.Exponential)
        .exponent(0.5)
        .steps(64),
    )
    .tooltip(
      new heatmap.HeatmapTooltipBuilder()
        .mode(common.TooltipDisplayMode.Single)
        .yHistogram(true),
    );
}

export interface Column {
  name: string;
  expr: string;
  unit: string;
  decimals?: number;
  /** From which value on the cell is yellow and red. */
  bad?: [number, number];
}

/** A row for each combination of `keys`, a column for each query. */
export function grid(
  about: Omit<About, "unit">,
  keys: string[],
  columns: Column[],
): table.PanelBuilder {
  const panel = new table.PanelBuilder()
    .title(about.title)
    .description(about.description)
    .datasource(DATASOURCE)
    .unit("short")
    .span(about.width)
    .height(about.height ?? HEIGHT)
    .noValue("")
    .filterable(true)
    .cellHeight(common.TableCellHeight.Sm);
  const order: Record<string, number> = {};
  keys.forEach((key, n) => (order[key] = n));
  const rename: Record<string, string> = {};
  columns.forEach((column, n) => {
    const id = String.fromCharCode("A".charCodeAt(0) + n);
    panel.withTarget(
      new prometheus.DataqueryBuilder()
        .expr(column.expr)
        .format(prometheus.PromQueryFormat.Table)
        .instant()
        .refId(id),
    );
    // What `merge` calls the value of a query.
    const value = `Value #${id}`;
    order[value] = keys.length + n;
    rename[value] = column.name;
    const properties: dashboard.DynamicConfigValue[] = [{ id: "unit", value: column.unit }];
    if (column.decimals !== undefined) properties.push({ id: "decimals", value: column.decimals });
    if (column.bad) {
      const [warn, crit] = column.bad;
      const steps: Steps = [[0, "transparent"], [warn, "orange"], [crit, "red"]];
      properties.push({ id: "thresholds", value: thresholds(steps).build() });
      properties.push({ id: "custom.cellOptions", value: { type: "color-background" } });
    }
    panel.overrideByName(column.name, properties);
  });
  return panel
    .withTransformation({ id: "merge", options: {} })
    .withTransformation({
      id: "organize",
      options: { excludeByName: { Time: true }, indexByName: order, renameByName: rename },
    });
}

export function label(name: string, query: string, text: string): dashboard.QueryVariableBuilder {
  return new dashboard.QueryVariableBuilder(name)
    .label(text)
    .datasource(DATASOURCE)
    .query({ qryType: 1, query, refId: "PrometheusVariableQueryEditor-VariableQuery" })
    .refresh(dashboard.VariableRefresh.OnTimeRangeChanged)
    .sort(dashboard.VariableSort.AlphabeticalAsc);
}

/** Several of them, or all that `query` finds. */
export function several(
  name: string,
  query: string,
  text: string,
): dashboard.QueryVariableBuilder {
  return label(name, query, text)
    .multi(true)
    .includeAll(true)
    .current({ selected: true, text: ["All"], value: ["$__all"] });
}

/** A row that is open, or one that is opened by a click. */
export function section(
  to: dashboard.DashboardBuilder,
  title: string,
  panels: Builder<dashboard.Panel>[],
  collapsed = false,
): void {
  const row = new dashboard.RowBuilder(title);
  if (collapsed) {
    row.collapsed(true);
    for (const panel of panels) row.withPanel(panel);
  }
  to.withRow(row);
  if (!collapsed) for (const panel of panels) to.withPanel(panel);
}

export function start(title: string, uid: string, description: string): dashboard.DashboardBuilder {
  return new dashboard.DashboardBuilder(title)
    .uid(uid)
    .description(description)
    .tags(["llmtrace"])
    .refresh("30s")
    .time({ from: "now-1h", to: "now" })
    .timezone("browser")
    .tooltip(dashboard.DashboardCursorSync.Crosshair)
    .link(
      new dashboard.DashboardLinkBuilder("llmtrace")
        .type(dashboard.DashboardLinkType.Dashboards)
        .tags(["llmtrace"])
        .icon("external link")
        .includeVars(true)
        .keepTime(true),
    )
    .annotation(
      new dashboard.AnnotationQueryBuilder()
        .name("Alerts")
        .datasource(DATASOURCE)
        .enable(true)
        .iconColor("red")
        .expr('ALERTS{alertname=~"Llm.*", alertstate="firing"}')
        .titleFormat("{{alertname}}")
        .textFormat("{{severity}} {{server}} {{instance}}")
        .step("60s"),
    )
    .withVariable(
      new dashboard.DatasourceVariableBuilder("datasource").label("Data source").type("prometheus"),
    );
}
