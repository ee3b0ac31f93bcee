"""Pictures, tables and the report page; reads files of a run folder and arrays handed to pure functions."""
