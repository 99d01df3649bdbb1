"""From a comparison to what people see: tables, figures, pages and files."""
