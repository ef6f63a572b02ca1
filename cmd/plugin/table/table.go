// Package table prints rows in columns, as wide as a terminal has room for.
package table

import (
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Column is one of a table.
type Column struct {
	Title string
	// Least is how many characters it keeps where the terminal is too narrow; 0: all.
	Least int
	// Wrap has a cell that does not fit go on in the next line; else it is cut.
	Wrap bool
}

// Gap is how far columns are apart.
const Gap = 2

// Render gives the table's lines, each with its end. width is the terminal's; 0: there is none, and columns are as wide as
// they are.
func Render(columns []Column, rows [][]string, width int) string {
	t := table.NewWriter()
	style := table.StyleDefault
	style.Options = table.OptionsNoBordersAndSeparators
	style.Box.PaddingLeft, style.Box.PaddingRight = "", strings.Repeat(" ", Gap)
	style.Format.Header = text.FormatDefault
	t.SetStyle(style)
	t.SuppressTrailingSpaces()
	widths := fit(columns, rows, width)
	header := table.Row{}
	var configs []table.ColumnConfig
	for i, c := range columns {
		enforce := cut
		if c.Wrap {
			enforce = wrap
		}
		header = append(header, c.Title)
		configs = append(configs, table.ColumnConfig{Number: i + 1, WidthMax: widths[i], WidthMaxEnforcer: enforce})
	}
	t.SetColumnConfigs(configs)
	t.AppendHeader(header)
	for _, row := range rows {
		cells := table.Row{}
		for _, cell := range row {
			cells = append(cells, cell)
		}
		t.AppendRow(cells)
	}
	return t.Render() + "\n"
}

// fit is how wide columns are. Where the terminal is too narrow for all, those give way first that have most to spare.
func fit(columns []Column, rows [][]string, width int) []int {
	widths := make([]int, len(columns))
	total := -Gap
	for i, c := range columns {
		widths[i] = text.StringWidth(c.Title)
		for _, row := range rows {
			widths[i] = max(widths[i], text.StringWidthWithoutEscSequences(row[i]))
		}
		total += widths[i] + Gap
	}
	for ; width > 0 && total > width; total-- {
		widest, spare := -1, 0
		for i, c := range columns {
			if c.Least > 0 && widths[i]-c.Least > spare {
				widest, spare = i, widths[i]-c.Least
			}
		}
		if widest < 0 {
			break
		}
		widths[widest]--
	}
	return widths
}

func cut(cell string, width int) string { return text.Snip(cell, width, "…") }

// wrap breaks a cell into lines: after a comma, a space, a slash or an underscore where there is one.
func wrap(cell string, width int) string {
	var lines []string
	rest := []rune(cell)
	for len(rest) > width && width > 0 {
		end := width
		for i := width; i > width/3; i-- {
			if strings.ContainsRune(", /_", rest[i-1]) {
				end = i
				break
			}
		}
		lines = append(lines, strings.TrimRight(string(rest[:end]), " "))
		rest = []rune(strings.TrimLeft(string(rest[end:]), " "))
	}
	return strings.Join(append(lines, string(rest)), "\n")
}
