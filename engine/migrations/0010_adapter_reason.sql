-- Why a session was worked on with its adapter, or with none; empty until that was decided. What was decided once is
-- kept when the session is resumed, whatever was promoted meanwhile.
ALTER TABLE sessions ADD COLUMN adapter_reason TEXT NOT NULL DEFAULT '';
