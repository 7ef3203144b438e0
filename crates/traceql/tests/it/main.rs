mod generated;
mod hostile;
mod queries;
