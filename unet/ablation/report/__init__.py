"""What finished runs show: statistics, tables, charts and pages. Everything here reads files; nothing is measured."""
