import { consumer, type Feature, provide, provideForIsolate } from '../feature.ts'
import { mailPort } from '../mail/mail.ts'
import { limitsService } from '../rate-limit/rate-limit.ts'
import { accountsService } from '../sessions/sessions.ts'
import { credentialExports } from './export.ts'
import { commonPasswords, createCommonPasswords } from './common-passwords.ts'
import { addressOf, createCredentials, credentialsService } from './credentials.ts'
import { createMessages } from './messages.ts'
import { emailVerifications, password, passwordResets } from './routes.ts'
import { ResetMessage } from './schema.ts'

/** Passwords and email addresses: change, reset, confirm. */
export const credentials: Feature = {
  name: 'credentials',
  provides: [
    provideForIsolate(commonPasswords, createCommonPasswords),
    provide(credentialsService, ({ db, outbox, use, config, assets, onFailure }) =>
      createCredentials({
        db,
        outbox,
        mail: use(mailPort),
        messages: createMessages(config.mail.appUrl),
        requirePassword: (userId, password) => use(accountsService).requirePassword(userId, password),
        hashPassword: (password) => use(accountsService).hashPassword(password),
        isPassword: (password, hash) => use(accountsService).isPassword(password, hash),
        recordEnd: (when, now) => use(accountsService).recordEnd(when, now),
        sendEnded: (userId, ended) => use(accountsService).sendEnded(userId, ended),
        isCommon: async (password) =>
          assets !== undefined &&
          use(commonPasswords).includes(
            password,
            () => assets.fetch('https://assets.local/common-passwords.bin'),
            (error) => onFailure('common passwords', error),
          ),
        // Without Redis nobody counts: the message is sent.
        spendMail: (email) =>
          use(limitsService)
            .take('mail', addressOf(email))
            .catch(() => undefined),
      }),
    ),
  ],
  routes: [
    ['/v1/users/me/password', () => password],
    ['/v1/password-resets', () => passwordResets],
    ['/v1/email-verifications', () => emailVerifications],
  ],
  consumers: () => [
    consumer({
      message: ResetMessage,
      async consume({ use, onFailure }, messages) {
        const failed = new Set<ResetMessage>()
        for (const message of messages) {
          await use(credentialsService)
            .sendReset(message)
            .catch((error: unknown) => {
              onFailure('password resets', error)
              failed.add(message)
            })
        }
        return failed
      },
    }),
  ],
  listener: ({ use }) => use(credentialsService).listener,
  exports: () => credentialExports,
  removals: { user: ({ use }, id, most) => use(credentialsService).removeOf(id, most) },
  purges: { credentialTokens: ({ use }, most, now) => use(credentialsService).purge(most, now) },
}
