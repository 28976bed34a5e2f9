import type { Mail } from '../mail/mail.ts'

type Text = Pick<Mail, 'template' | 'subject' | 'text' | 'link'>

const IGNORE = 'If you did not ask for this, ignore this message: nothing changes.'

/** The texts of the messages about credentials. `appUrl` is the page of the app that links open. */
export const createMessages = (appUrl: string) => {
  // A fragment: browsers do not send it, so no log has the token.
  const linkTo = (action: string, token: string) => `${appUrl}#${action}=${token}`

  return {
    reset(username: string, token: string): Text {
      const link = linkTo('reset-password', token)
      const text = `Somebody asked to reset the password of ${username}. Open this link within 30 minutes:\n\n${link}\n\n${IGNORE}`
      return { template: 'reset', subject: 'Reset your password', text, link }
    },
    verify(username: string, token: string): Text {
      const link = linkTo('verify-email', token)
      const text = `Confirm that this is the address of ${username}. Open this link within a day:\n\n${link}\n\n${IGNORE}`
      return { template: 'verify', subject: 'Confirm your email address', text, link }
    },
    taken(username: string): Text {
      const text = `Somebody gave this address for a new account or for another account. It belongs to ${username} already. Sign in as ${username}, or reset the password if you have forgotten it.\n\n${IGNORE}`
      return { template: 'taken', subject: 'You have an account already', text, link: null }
    },
    passwordChanged(username: string): Text {
      const text = `The password of ${username} was changed, and other devices were signed out. If that was not you, reset the password now: ${appUrl}`
      return { template: 'password-changed', subject: 'Your password was changed', text, link: null }
    },
    emailChanged(username: string, email: string): Text {
      const text = `The email address of ${username} is now ${email}. If that was not you, contact us.`
      return { template: 'email-changed', subject: 'Your email address was changed', text, link: null }
    },
  }
}
