-- Run once, by psql as the superuser of a new database: who may do what in a store.
--
-- exitbits_owner owns the tables: 'exitbits store upgrade' runs as it, nothing else does.
-- exitbits reads and writes rows; it can make, change and drop no table. Workers, the dashboard
-- and whoever submits studies log in as it.
\set ON_ERROR_STOP on
\set owner_password `cat /run/secrets/db_owner_password`
\set password `cat /run/secrets/db_password`

create role exitbits_owner login password :'owner_password';
create role exitbits login password :'password';

alter database :"DBNAME" owner to exitbits_owner;
revoke all on database :"DBNAME" from public;
grant connect on database :"DBNAME" to exitbits;

alter default privileges for role exitbits_owner in schema public
    grant select, insert, update, delete on tables to exitbits;
alter default privileges for role exitbits_owner in schema public
    grant usage, select on sequences to exitbits;

-- The superuser is left without a password: it can no longer log in over the network.
alter role current_user password null;
