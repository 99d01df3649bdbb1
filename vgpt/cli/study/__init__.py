"""The commands that answer with a study: compare runs, train what is missing, reproduce a row."""
