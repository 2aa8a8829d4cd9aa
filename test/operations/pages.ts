/** Which file of tests answers for which sections of docs/OPERATIONS.md. */
export const PAGES = {
  projects: [
    'Operations',
    'How a project goes: phases, failures, windows',
    'Trains: who may ask, who approves, and when',
    'Recurring requests',
    'A project waits for another',
    'The plan drifted',
    'A machine is offline before its turn',
    'Everything must stop',
  ],
  machines: [
    'A machine failed',
    'The health report',
    'Causes',
    'A script hangs',
    'The machine is worse than before',
    'A machine does not come back from its reboot',
    'Someone else reboots a machine in its run',
    'A run is unknown',
    'A machine was reinstalled',
    'A machine is quarantined',
    'What the agent costs a machine',
    'What a stolen agent can do',
  ],
  keeping: ['What the coordinator itself did', 'The dashboard', 'Chat', 'Backup and restore', 'Who did what'],
  outside: [
    'The approval was withdrawn, or is missing',
    'The change gets no number',
    'Changes in ServiceNow',
    'Which machines there are',
  ],
} as const
